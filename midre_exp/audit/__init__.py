"""How exposed is somebody's classifier? From a weight file and a folder of pictures to one page."""
