"""What users do with stores: generate, extend, derive, verify, replay."""
