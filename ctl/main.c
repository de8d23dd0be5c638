/* The joist program: everything it can do is a verb of the command line. */
#include "ctl/cli/cli.h"

int main(int argc, char **argv) {
	return cli_main(argc, argv);
}
