"""Reports: read runs from their folders and make one page of them, or serve the page while the runs continue."""
