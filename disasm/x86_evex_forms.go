package disasm

// The EVEX maps; form says what the letters and the figures mean. Map 4 is
// APX, which is not decoded; 5 and 6 are AVX512-FP16.

// formsEVEX1 are those of EVEX map 1.
var formsEVEX1 = opcodeForms{
	rows: "" +
		"................" + // 00
		"aabcddec........" + // 10
		"........ffgchhii" + // 20
		"................" + // 30
		"................" + // 40
		".a..dddd**aj****" + // 50
		"kklkkklkkkllmmno" + // 60
		"pqrskkl.ttou..vo" + // 70
		"................" + // 80
		"................" + // 90
		"................" + // a0
		"................" + // b0
		"..w.kxd........." + // c0
		".klmmky.kkkkkkkk" + // d0
		"kkkkkkozkkkkkkkk" + // e0
		".klmmkk.kklmkkl.", // f0
	forms: [128]form{
		'*': {0xffffffff, 0xffffffff, 0xffff, 0xf},
		'a': {0xffffffff, 0xffffffff, 0xffff, 0xc},
		'b': {0xffffffff, 0xff00ffff, 0xffff, 0x3},
		'c': {0xffff0000, 0x00000000, 0x5a00, 0x0},
		'd': {0xffff0000, 0xffff0000, 0x5a00, 0x3},
		'e': {0xffffff00, 0xff00ff00, 0xfff0, 0x3},
		'f': {0xffff0000, 0xffff0000, 0x5a00, 0x0},
		'g': {0x0000ffff, 0x0000ffff, 0x00ff, 0xc},
		'h': {0x0000ffff, 0x0000ffff, 0x00ff, 0x0},
		'i': {0xffff0000, 0xffff0000, 0xff00, 0x0},
		'j': {0xffffff00, 0xffffff00, 0xfff0, 0x0},
		'k': {0x00ff0000, 0x00ff0000, 0x0f00, 0x2},
		'l': {0x00ff0000, 0x00ff0000, 0x0500, 0x2},
		'm': {0x00ff0000, 0x00ff0000, 0x0a00, 0x2},
		'n': {0x00ff0000, 0x00ff0000, 0x0f00, 0x0},
		'o': {0x00ffffff, 0x00ffffff, 0x0fff, 0x0},
		'p': {0x00ffffff, 0x00ffffff, 0x05ff, 0x0},
		'q': {0x00540000, 0x00540000, 0x0f00, 0x2},
		'r': {0x00570000, 0x00570000, 0x0f00, 0x2},
		's': {0x00cc0000, 0x00cc0000, 0x0f00, 0x2},
		't': {0xffffffff, 0xffffffff, 0xffff, 0x0},
		'u': {0x00ffffff, 0x00ffffff, 0x0fff, 0xc},
		'v': {0x00ffff00, 0x00ffff00, 0x0fa0, 0x0},
		'w': {0xffffffff, 0xffffffff, 0x5aff, 0xf},
		'x': {0x00000000, 0x00ff0000, 0x0f00, 0x0},
		'y': {0x00ff0000, 0x00ff0000, 0x0a00, 0x0},
		'z': {0x00ff0000, 0x00ff0000, 0x0500, 0x0},
	},
}

// formsEVEX2 are those of EVEX map 2.
var formsEVEX2 = opcodeForms{
	rows: "" +
		"a...a......aba.." + // 00
		"cccdeea.fghhggfi" + // 10
		"dddddjkklmnbaa.." + // 20
		"dddddjaopqraaaaa" + // 30
		"a.gagaaa....gasa" + // 40
		"ttuvgg..fghh...." + // 50
		"..ggaaa.w......." + // 60
		"oaxa.aaaffyyzaaa" + // 70
		"...o....gggg.a.a" + // 80
		"hhhh..aaaaAAaaaa" + // 90
		"hhhh..aaaaAAaaaa" + // a0
		"....ooaaaaaaaaaa" + // b0
		"....g.BBg.gaga.b" + // c0
		"............aaaa" + // d0
		"................" + // e0
		"................", // f0
	forms: [128]form{
		'a': {0x00ff0000, 0x00ff0000, 0x0f00, 0x2},
		'b': {0x00ff0000, 0x00ff0000, 0x0500, 0x2},
		'c': {0x00ffff00, 0x00ffff00, 0x0a50, 0x2},
		'd': {0x00ffff00, 0x00ffff00, 0x0f50, 0x0},
		'e': {0x00ffff00, 0x00ffff00, 0x0f50, 0x2},
		'f': {0x00ff0000, 0x00ff0000, 0x0500, 0x0},
		'g': {0x00ff0000, 0x00ff0000, 0x0f00, 0x0},
		'h': {0x00ff0000, 0x00000000, 0x0f00, 0x0},
		'i': {0x00ff0000, 0x00ff0000, 0x0a00, 0x0},
		'j': {0x00ffff00, 0x00ffff00, 0x0550, 0x0},
		'k': {0x00ffff00, 0x00ffff00, 0x0ff0, 0x6},
		'l': {0x00ff0000, 0x00ffff00, 0x0af0, 0x2},
		'm': {0x00ffff00, 0x00ffff00, 0x0af0, 0x2},
		'n': {0x00ff0000, 0x00ffff00, 0x05a0, 0x0},
		'o': {0x00ff0000, 0x00ff0000, 0x0a00, 0x2},
		'p': {0x00ff0000, 0x00ffff00, 0x0ff0, 0x2},
		'q': {0x00ffff00, 0x00ffff00, 0x0ff0, 0x2},
		'r': {0x00ff0000, 0x00ffff00, 0x0f50, 0x2},
		's': {0xffffffff, 0xffffffff, 0xffff, 0x0},
		't': {0xffffffff, 0xffffffff, 0x5555, 0xf},
		'u': {0x00ffffff, 0x00ffff00, 0x05ff, 0xe},
		'v': {0x00ff00ff, 0x00ff0000, 0x050f, 0xa},
		'w': {0x000000ff, 0x000000ff, 0x000f, 0x8},
		'x': {0x00ffffff, 0x00ffffff, 0x0aff, 0xa},
		'y': {0x00000000, 0x00ff0000, 0x0500, 0x0},
		'z': {0x00000000, 0x00ff0000, 0x0f00, 0x0},
		'A': {0x00ff00ff, 0x00ff0000, 0x0f0f, 0xa},
		'B': {0x00660000, 0x00000000, 0x0f00, 0x0},
	},
}

// formsEVEX3 are those of EVEX map 3.
var formsEVEX3 = opcodeForms{
	rows: "" +
		"aa.bcd..edfb...b" + // 00
		"....ddddbdbd.cbb" + // 10
		"bgbb.bef........" + // 20
		"........bdbd..bb" + // 30
		"..hbb..........." + // 40
		"bb..bbef........" + // 50
		"......ee........" + // 60
		"ibib............" + // 70
		"................" + // 80
		"................" + // 90
		"................" + // a0
		"................" + // b0
		"..j...........kk" + // c0
		"................" + // d0
		"................" + // e0
		"................", // f0
	forms: [128]form{
		'a': {0x00ff0000, 0x00ff0000, 0x0a00, 0x0},
		'b': {0x00ff0000, 0x00ff0000, 0x0f00, 0x2},
		'c': {0x00ff0000, 0x00ff0000, 0x0500, 0x0},
		'd': {0x00ff0000, 0x00ff0000, 0x0f00, 0x0},
		'e': {0xffff0000, 0xffff0000, 0xff00, 0x0},
		'f': {0xffff0000, 0xffff0000, 0xff00, 0x3},
		'g': {0x00ff0000, 0x00ff0000, 0x0500, 0x2},
		'h': {0xffffffff, 0xffffffff, 0x5555, 0xf},
		'i': {0xffffffff, 0xffffffff, 0xaaaa, 0xf},
		'j': {0xff00ff00, 0xff00ff00, 0xf0f0, 0x5},
		'k': {0x00ff0000, 0x00ff0000, 0x0a00, 0x2},
	},
}

// formsEVEX5 are those of EVEX map 5.
var formsEVEX5 = opcodeForms{
	rows: "" +
		"................" + // 00
		"aa...........b.." + // 10
		"..........a.ccdd" + // 20
		"................" + // 30
		"................" + // 40
		".e......ffghffff" + // 50
		"..............i." + // 60
		"........hhjklmi." + // 70
		"................" + // 80
		"................" + // 90
		"................" + // a0
		"................" + // b0
		"................" + // c0
		"................" + // d0
		"................" + // e0
		"................", // f0
	forms: [128]form{
		'a': {0x0000ff00, 0x0000ff00, 0x00f0, 0x4},
		'b': {0xffff0000, 0xffff0000, 0xff00, 0x1},
		'c': {0x0000ff00, 0x0000ff00, 0x00f0, 0x0},
		'd': {0xff000000, 0xff000000, 0xf000, 0x0},
		'e': {0xff00ff00, 0xff00ff00, 0xf0f0, 0x4},
		'f': {0xff00ff00, 0xff00ff00, 0xf0f0, 0x5},
		'g': {0xffffffff, 0xffffffff, 0xffff, 0xc},
		'h': {0xffffff00, 0xffffff00, 0xfff0, 0x0},
		'i': {0x00ff0000, 0x00ff0000, 0x0f00, 0x0},
		'j': {0x00ff00ff, 0x00ff00ff, 0x0f0f, 0x0},
		'k': {0x00ffff00, 0x00ffff00, 0x0ff0, 0x4},
		'l': {0xffff0000, 0xffff0000, 0xff00, 0x0},
		'm': {0xffffffff, 0xffffffff, 0xffff, 0x0},
	},
}

// formsEVEX6 are those of EVEX map 6.
var formsEVEX6 = opcodeForms{
	rows: "" +
		"................" + // 00
		"...a............" + // 10
		"............bb.." + // 20
		"................" + // 30
		"..cb........cbcb" + // 40
		"......dd........" + // 50
		"................" + // 60
		"................" + // 70
		"................" + // 80
		"......bbbbbbbbbb" + // 90
		"......bbbbbbbbbb" + // a0
		"......bbbbbbbbbb" + // b0
		"................" + // c0
		"......dd........" + // d0
		"................" + // e0
		"................", // f0
	forms: [128]form{
		'a': {0xffff0000, 0xffff0000, 0xff00, 0x1},
		'b': {0x00ff0000, 0x00ff0000, 0x0f00, 0x2},
		'c': {0x00ff0000, 0x00ff0000, 0x0f00, 0x0},
		'd': {0x0000ffff, 0x0000ffff, 0x00ff, 0xc},
	},
}
