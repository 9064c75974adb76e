"""What people look at: several runs side by side."""
