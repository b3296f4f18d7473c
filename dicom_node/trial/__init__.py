"""What the demonstration and the tests play the hospital with."""
