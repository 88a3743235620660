"""Exit codes."""

__all__ = ["DAMAGED", "FAILED", "INCOMPLETE", "INTERRUPTED", "IRREPRODUCIBLE", "OK", "RAISED", "TABLE"]

OK, INCOMPLETE, FAILED, DAMAGED, IRREPRODUCIBLE, INTERRUPTED = 0, 1, 2, 3, 4, 130

#: After the traceback of a simulator's own exception.
RAISED = 1

TABLE = """exit codes:
  0    all went well
  1    the store is incomplete (status), or the simulator raised an exception
  2    the call or the simulator was wrong, or there is no such store
  3    chunks are damaged
  4    samples came out otherwise when they were simulated again
  130  interrupted by Ctrl-C; the same line goes on where it was
"""
