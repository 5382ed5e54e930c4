"""What is found: texts, pictures and passages by their vectors."""
