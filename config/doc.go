// Package config finds out what the user wants: a flag wins over the environment, the environment
// over a YAML file, the file over the default.
//
// It knows the layers and the notations of values (sizes, addresses, key files), not the flags
// themselves: those belong to the command line, and their meaning to the packages that get them.
package config
