"""A folder of files to and from one repository of a Hub, one commit at a time; knows no model."""
