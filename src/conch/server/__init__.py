"""The server room: finds the tritonserver of nvidia-pytriton, checks the machine, starts it and watches over it."""
