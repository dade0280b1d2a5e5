"""What a link is: its measured speed, and links with a known speed to test on."""
