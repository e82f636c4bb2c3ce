"""What only notebooks import: claims, exercises and widgets."""
