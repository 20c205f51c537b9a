"""Files that are not modules of ours but what we put on other machines."""
