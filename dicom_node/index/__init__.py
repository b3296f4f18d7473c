"""What makes a row of a durable instance."""
