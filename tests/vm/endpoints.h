/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses of the two ends of a connection within one machine. Ends with different addresses can
 * be distinguished in metrics whose labels have no port.
 */
#ifndef ENDPOINTS_H
#define ENDPOINTS_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

struct endpoint {
	struct sockaddr_storage address;
	socklen_t length;
	int family;
};

/* Reads an IPv4 or IPv6 address; false if it is neither. */
static inline bool parse_endpoint(const char *text, unsigned short port, struct endpoint *endpoint)
{
	struct sockaddr_in *in4 = (struct sockaddr_in *)&endpoint->address;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&endpoint->address;

	memset(endpoint, 0, sizeof(*endpoint));
	if (inet_pton(AF_INET, text, &in4->sin_addr) == 1) {
		in4->sin_family = AF_INET;
		in4->sin_port = htons(port);
		endpoint->length = sizeof(*in4);
		endpoint->family = AF_INET;
		return true;
	}
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(port);
	endpoint->length = sizeof(*in6);
	endpoint->family = AF_INET6;
	return inet_pton(AF_INET6, text, &in6->sin6_addr) == 1;
}

#endif
