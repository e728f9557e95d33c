"""Reports: runs read from their folders, finished or not, onto one page; or served while they are written."""
