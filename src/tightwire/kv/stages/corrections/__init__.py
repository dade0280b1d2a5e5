"""What is sent against the loss of the stages that follow."""
