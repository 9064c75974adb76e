"""The command line: each module builds settings, joins rooms and prints the result; heavy imports wait until used."""
