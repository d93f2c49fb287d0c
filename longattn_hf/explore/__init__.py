"""The explorer, a local web app to choose a cut by looking; needs the extra `explore`."""
