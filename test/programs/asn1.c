/* A program of the system's libcrypto that never rests: threads digest and draw random
 * numbers, and check what comes; lines on standard input are hexadecimal DER of an octet
 * string, answered with its length or "bad". */
#include <openssl/asn1.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile unsigned long rounds, wrong;

static void *work(void *unused)
{
	static const unsigned char want[4] = {0xba, 0x78, 0x16, 0xbf}; /* SHA-256 of "abc" */
	unsigned char md[32], a[16], b[16];
	static const unsigned char der[] = {0x04, 0x03, 'a', 'b', 'c'};

	for (;;) {
		const unsigned char *p = der;
		ASN1_OCTET_STRING *s = d2i_ASN1_OCTET_STRING(NULL, &p, sizeof der);
		int ok = s && ASN1_STRING_length(s) == 3 &&
			EVP_Digest(ASN1_STRING_get0_data(s), 3, md, NULL, EVP_sha256(), NULL) && !memcmp(md, want, 4) &&
			RAND_bytes(a, sizeof a) == 1 && RAND_priv_bytes(b, sizeof b) == 1 && memcmp(a, b, sizeof a);
		ASN1_OCTET_STRING_free(s);
		__atomic_add_fetch(&rounds, 1, __ATOMIC_RELAXED);
		if (!ok)
			__atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
	}
	return unused;
}

int main(void)
{
	char line[256];
	pthread_t id;

	for (int i = 0; i < 3; i++)
		if (pthread_create(&id, NULL, work, NULL))
			return 1;
	while (fgets(line, sizeof line, stdin)) {
		unsigned char der[128];
		const unsigned char *p = der;
		size_t n = 0;
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "count")) {
			printf("%lu rounds, %lu wrong\n", rounds, wrong);
		} else {
			for (; n < sizeof der && line[2 * n] && line[2 * n + 1]; n++) {
				char hex[3] = {line[2 * n], line[2 * n + 1], 0};
				der[n] = strtoul(hex, NULL, 16);
			}
			ASN1_OCTET_STRING *s = d2i_ASN1_OCTET_STRING(NULL, &p, n);
			if (s)
				printf("%d\n", ASN1_STRING_length(s));
			else
				puts("bad");
			ASN1_OCTET_STRING_free(s);
		}
		fflush(stdout);
	}
	return 0;
}
