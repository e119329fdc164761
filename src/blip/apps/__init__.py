"""Things built on a loaded model: heat-maps, photo search, exported models, the server and the web page."""
