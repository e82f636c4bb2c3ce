"""The exercises of each lesson, checked."""
