"""What the program tells its operators: log lines and metrics. Never prompts, answers or secrets."""
