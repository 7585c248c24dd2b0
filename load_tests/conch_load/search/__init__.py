"""What a server carries: ladders of rates or users, and the largest rate at which an SLO holds."""
