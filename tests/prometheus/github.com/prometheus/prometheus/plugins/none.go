// Package plugins has no service discovery: nothing is scraped but what the config lists.
package plugins
