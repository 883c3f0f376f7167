package disasm

// The opcode maps, 16 opcodes a line. A letter says what follows the opcode:
//
//	.  nothing is defined here in 64-bit mode
//	p  prefix or escape, never an opcode
//	-  nothing follows
//	b  imm8               w  imm16            e  imm16 and imm8 (enter)
//	z  imm16 or imm32     v  imm16/32/64      o  address, 4 or 8 bytes
//	j  rel8               J  rel32
//	m  ModRM              M  ModRM and imm8   Z  ModRM and imm16/32
//	D  ModRM and imm32    x  ModRM; two imm8 with prefix 66 or F2
//	g  ModRM; imm8 when its reg field is 0 or 1 (test)
//	G  ModRM; imm16/32 when its reg field is 0 or 1 (test)
//
// A z is 2 bytes with prefix 66 and no REX.W. A J is 4 bytes with prefix 66
// too: Intel ignores the prefix, AMD reads two bytes and cuts RIP to 16 bits.
// No compiler emits that.
const kindsOneByte = "" +
	"mmmmbz..mmmmbz.p" + // 00 add, or
	"mmmmbz..mmmmbz.." + // 10 adc, sbb
	"mmmmbzp.mmmmbzp." + // 20 and, sub
	"mmmmbzp.mmmmbzp." + // 30 xor, cmp
	"pppppppppppppppp" + // 40 REX
	"----------------" + // 50 push, pop
	"..pmppppzZbM----" + // 60
	"jjjjjjjjjjjjjjjj" + // 70 jcc
	"MZ.Mmmmmmmmmmmmm" + // 80
	"----------.-----" + // 90
	"oooo----bz------" + // a0
	"bbbbbbbbvvvvvvvv" + // b0 mov
	"MMw-ppMZe-w--b.-" + // c0
	"mmmm...-mmmmmmmm" + // d0
	"jjjjbbbbJJ.j----" + // e0
	"p-pp--gG------mm" //  f0

const kinds0F = "" +
	"mmmm.-----.-.m-M" + // 00
	"mmmmmmmmmmmmmmmm" + // 10
	"mmmm....mmmmmmmm" + // 20
	"------.-p.p....." + // 30
	"mmmmmmmmmmmmmmmm" + // 40 cmovcc
	"mmmmmmmmmmmmmmmm" + // 50
	"mmmmmmmmmmmmmmmm" + // 60
	"MMMMmmm-xm..mmmm" + // 70
	"JJJJJJJJJJJJJJJJ" + // 80 jcc
	"mmmmmmmmmmmmmmmm" + // 90 setcc
	"---mMmmm---mMmmm" + // a0
	"mmmmmmmmmmMmmmmm" + // b0
	"mmMmMMMm--------" + // c0
	"mmmmmmmmmmmmmmmm" + // d0
	"mmmmmmmmmmmmmmmm" + // e0
	"mmmmmmmmmmmmmmmm" //  f0

// kindsVector is 0F as VEX and EVEX use it.
const kindsVector = "" +
	"................" + // 00
	"mmmmmmmmmmmmmmmm" + // 10
	"........mmmmmmmm" + // 20
	"................" + // 30
	"mmmmmmmmmmmmmmmm" + // 40
	"mmmmmmmmmmmmmmmm" + // 50
	"mmmmmmmmmmmmmmmm" + // 60
	"MMMMmmm-mmmmmmmm" + // 70
	"................" + // 80
	"mmmmmmmmmmmmmmmm" + // 90
	"..............m." + // a0
	"................" + // b0
	"..M.MMM........." + // c0
	"mmmmmmmmmmmmmmmm" + // d0
	"mmmmmmmmmmmmmmmm" + // e0
	"mmmmmmmmmmmmmmm." //  f0
