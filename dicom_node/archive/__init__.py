"""What we ask the PACS: how many images a study has, those that are missing, earlier studies."""
