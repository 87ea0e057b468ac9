"""What people use to talk to the devices; depends on Tango only."""
