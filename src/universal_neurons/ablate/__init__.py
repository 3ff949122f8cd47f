"""What the models lose without their universal neurons."""
