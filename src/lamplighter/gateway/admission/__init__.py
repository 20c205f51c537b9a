"""Who may ask how much: limits and budgets, reserved before a request goes out and settled when it is over."""
