"""What training minimises (spec, section 8)."""
