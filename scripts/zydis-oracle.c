/* The second opinion of scripts/sweep-disasm, on Debian's libzydis-dev.
 *
 * Reads records of 16 bytes, of which 15 count, and writes four bytes for each:
 * the length of the instruction that they begin with (0 when there is none), 1
 * for a RIP-relative operand or 2 for a relative branch, and the offset and
 * size in bytes of that field.
 */
#include <Zydis/Zydis.h>
#include <stdio.h>

static void answer(const ZydisDecoder *decoder, const unsigned char *bytes, unsigned char *out)
{
	ZydisDecodedInstruction in;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, bytes, 15, &in, operands)))
		return;
	out[0] = in.length;
	if (!(in.attributes & ZYDIS_ATTRIB_IS_RELATIVE))
		return;
	if (in.raw.imm[0].is_relative) {
		out[1] = 2;
		out[2] = in.raw.imm[0].offset;
		out[3] = in.raw.imm[0].size / 8;
	} else {
		out[1] = 1;
		out[2] = in.raw.disp.offset;
		out[3] = in.raw.disp.size / 8;
	}
}

int main(void)
{
	ZydisDecoder decoder;
	unsigned char bytes[16];

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	while (fread(bytes, sizeof bytes, 1, stdin) == 1) {
		unsigned char out[4] = { 0 };

		answer(&decoder, bytes, out);
		fwrite(out, sizeof out, 1, stdout);
	}
	return 0;
}
