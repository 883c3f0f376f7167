package disasm

// The legacy maps; form says what the letters and the figures mean.

// formsOneByte are those of the one-byte opcodes.
var formsOneByte = opcodeForms{
	rows: "" +
		"******..******.*" + // 00
		"******..******.." + // 10
		"*******.*******." + // 20
		"*******.*******." + // 30
		"****************" + // 40
		"****************" + // 50
		"..**************" + // 60
		"****************" + // 70
		"**.**********a*b" + // 80
		"**********.*****" + // 90
		"****************" + // a0
		"****************" + // b0
		"******cc******.*" + // c0
		"****...*!d!e!f!!" + // d0
		"**********.*****" + // e0
		"**************gh", // f0
	forms: [128]form{
		'*': {0xffffffff, 0xffffffff, 0xffff, 0xf},
		'!': {0xffffffff, 0xffffffff, 0xffff, 0xf},
		'a': {0xffffffff, 0x00000000, 0xffff, 0xf},
		'b': {0x01010101, 0x01010101, 0xffff, 0xf},
		'c': {0x01010101, 0x81818181, 0xffff, 0xf},
		'd': {0xfdfdfdfd, 0xffffffff, 0xffff, 0xf},
		'e': {0xafafafaf, 0xffffffff, 0xffff, 0xf},
		'f': {0xdfdfdfdf, 0xffffffff, 0xffff, 0xf},
		'g': {0x03030303, 0x03030303, 0xffff, 0xf},
		'h': {0x7f7f7f7f, 0x57575757, 0xffff, 0xf},
	},
}

// forms0F are those of 0F.
var forms0F = opcodeForms{
	rows: "" +
		"a!**.*****.*.**!" + // 00
		"**bcddec**fg****" + // 10
		"h*h*....dd*i**dd" + // 20
		"******.**.*....." + // 30
		"****************" + // 40
		"j*kkdddd***l****" + // 50
		"ddddddddddddmmdl" + // 60
		"*nnodddpqq..rrll" + // 70
		"****************" + // 80
		"****************" + // 90
		"******st******u*" + // a0
		"**i*ii**v*w*****" + // b0
		"***xdjdy********" + // c0
		"rdddddzAdddddddd" + // d0
		"ddddddBcdddddddd" + // e0
		"Cddddddjddddddd*", // f0
	forms: [128]form{
		'*': {0xffffffff, 0xffffffff, 0xffff, 0xf},
		'!': {0xffffffff, 0xffffffff, 0xffff, 0xf},
		'a': {0x3f3f3f3f, 0x3f3f3f3f, 0xffff, 0xf},
		'b': {0xffffffff, 0xff00ffff, 0xffff, 0xf},
		'c': {0xffff0000, 0x00000000, 0xffff, 0xf},
		'd': {0xffff0000, 0xffff0000, 0xffff, 0xf},
		'e': {0xffffff00, 0xff00ff00, 0xffff, 0xf},
		'f': {0x0f0f0f0f, 0xff0f0f0f, 0xffff, 0xf},
		'g': {0x0f0f0f0f, 0xff0fff0f, 0xffff, 0xf},
		'h': {0x1d1d1d1d, 0x1d1d1d1d, 0xffff, 0xf},
		'i': {0xffffffff, 0x00000000, 0xffff, 0xf},
		'j': {0x00000000, 0xffff0000, 0xffff, 0xf},
		'k': {0xff00ff00, 0xff00ff00, 0xffff, 0xf},
		'l': {0xffffff00, 0xffffff00, 0xffff, 0xf},
		'm': {0x00ff0000, 0x00ff0000, 0xffff, 0xf},
		'n': {0x00000000, 0x54540000, 0xffff, 0xf},
		'o': {0x00000000, 0x44cc0000, 0xffff, 0xf},
		'p': {0xff000000, 0xff000000, 0xffff, 0xf},
		'q': {0xff000000, 0xffff00ff, 0xffff, 0xf},
		'r': {0x00ff00ff, 0x00ff00ff, 0xffff, 0xf},
		's': {0x00000000, 0x07070707, 0xffff, 0xf},
		't': {0x00000000, 0x3f3f3f3f, 0xffff, 0xf},
		'u': {0xffcf5f0f, 0xe0c0ffc0, 0xffff, 0xf},
		'v': {0x0000ff00, 0x0000ff00, 0xffff, 0xf},
		'w': {0xf0f0f0f0, 0xf0f0f0f0, 0xffff, 0xf},
		'x': {0xff000000, 0x00000000, 0xffff, 0xf},
		'y': {0xfafafaba, 0xc0c0c000, 0xffff, 0xf},
		'z': {0x00ff0000, 0x00ffffff, 0xffff, 0xf},
		'A': {0x00000000, 0xffffffff, 0xffff, 0xf},
		'B': {0x00ffffff, 0x00ffffff, 0xffff, 0xf},
		'C': {0x000000ff, 0x00000000, 0xffff, 0xf},
	},
}

// forms0F38 are those of 0F 38.
var forms0F38 = opcodeForms{
	rows: "" +
		"aaaaaaaaaaaa...." + // 00
		"b...bb.b....aaa." + // 10
		"bbbbbb..bbcb...." + // 20
		"bbbbbb.bbbbbbbbb" + // 30
		"bb.............." + // 40
		"................" + // 50
		"................" + // 60
		"................" + // 70
		"ccc............." + // 80
		"................" + // 90
		"................" + // a0
		"................" + // b0
		"........dddddd.b" + // c0
		"........e..bfggg" + // d0
		"................" + // e0
		"hh...ci.jkllm...", // f0
	forms: [128]form{
		'a': {0xffff0000, 0xffff0000, 0xffff, 0xf},
		'b': {0x00ff0000, 0x00ff0000, 0xffff, 0xf},
		'c': {0x00ff0000, 0x00000000, 0xffff, 0xf},
		'd': {0xff000000, 0xff000000, 0xffff, 0xf},
		'e': {0x00000f00, 0x00000000, 0xffff, 0xf},
		'f': {0x00ffff00, 0x00ffff00, 0xffff, 0xf},
		'g': {0x00ffff00, 0x00ff0000, 0xffff, 0xf},
		'h': {0xffff00ff, 0x000000ff, 0xffff, 0xf},
		'i': {0xffffff00, 0x00ffff00, 0xffff, 0xf},
		'j': {0x00ffffff, 0x00000000, 0xffff, 0xf},
		'k': {0xff000000, 0x00000000, 0xffff, 0xf},
		'l': {0x00000000, 0x0000ff00, 0xffff, 0xf},
		'm': {0xffffffff, 0x00000000, 0xffff, 0xf},
	},
}

// forms0F3A are those of 0F 3A.
var forms0F3A = opcodeForms{
	rows: "" +
		"........aaaaaaab" + // 00
		"....aaaa........" + // 10
		"aaa............." + // 20
		"................" + // 30
		"aaa.a..........." + // 40
		"................" + // 50
		"aaaa............" + // 60
		"................" + // 70
		"................" + // 80
		"................" + // 90
		"................" + // a0
		"................" + // b0
		"............c.aa" + // c0
		"...............a" + // d0
		"................" + // e0
		"d...............", // f0
	forms: [128]form{
		'a': {0x00ff0000, 0x00ff0000, 0xffff, 0xf},
		'b': {0xffff0000, 0xffff0000, 0xffff, 0xf},
		'c': {0xff000000, 0xff000000, 0xffff, 0xf},
		'd': {0x00000000, 0x00000100, 0xffff, 0xf},
	},
}
