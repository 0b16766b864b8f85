"""What `tuneport doctor` checks: the machine, its engines, the packages and the environment that commands need."""
