"""From addresses to streams of random numbers, and to the generators that users' functions reach by themselves."""
