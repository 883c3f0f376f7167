(function () {
	'use strict';
	var hunks = Array.prototype.slice.call(document.querySelectorAll('tr.h'));
	var functions = Array.prototype.slice.call(document.querySelectorAll('article.function'));
	var at = -1, fn = -1;
	var where = document.getElementById('where');
	var keys = document.getElementById('keys');

	function show(el, text) {
		for (var up = el.parentElement; up; up = up.parentElement) {
			if (up.tagName === 'DETAILS') { up.open = true; }
		}
		el.tabIndex = -1;
		el.focus({ preventScroll: true });
		el.scrollIntoView({ block: el.tagName === 'TR' ? 'center' : 'start' });
		where.textContent = text;
	}
	function difference(step) {
		if (!hunks.length) { where.textContent = 'No differences'; return; }
		at = Math.min(Math.max(at + step, 0), hunks.length - 1);
		fn = functions.indexOf(hunks[at].closest('article'));
		show(hunks[at], 'Difference ' + (at + 1) + ' of ' + hunks.length);
	}
	function toFunction(step) {
		if (!functions.length) { return; }
		fn = Math.min(Math.max(fn + step, 0), functions.length - 1);
		before(functions[fn]);
		show(functions[fn].querySelector('h3'), 'Function ' + (fn + 1) + ' of ' + functions.length);
	}
	// before makes the next difference the first one in an element.
	function before(el) {
		var first = hunks.findIndex(function (h) { return el.contains(h); });
		if (first >= 0) { at = first - 1; }
	}
	function folds(open) {
		document.querySelectorAll('details.fold').forEach(function (d) { d.open = open; });
		where.textContent = open ? 'All code is unfolded' : 'Unchanged code is folded';
	}
	var does = {
		n: function () { difference(1); }, p: function () { difference(-1); },
		']': function () { toFunction(1); }, '[': function () { toFunction(-1); },
		o: function () { folds(true); }, f: function () { folds(false); },
		t: function () { show(document.getElementById('summary'), 'Summary'); }
	};
	document.addEventListener('keydown', function (e) {
		if (!keys.checked || e.ctrlKey || e.metaKey || e.altKey || !Object.hasOwn(does, e.key)) { return; }
		e.preventDefault();
		does[e.key]();
	});
	document.getElementById('tools').addEventListener('click', function (e) {
		var b = e.target.closest('button');
		if (b) { does[b.dataset.do](); }
	});
	window.addEventListener('hashchange', function () {
		var el = document.getElementById(location.hash.slice(1));
		var i = functions.indexOf(el);
		if (i >= 0) { fn = i; before(el); }
	});
	where.textContent = hunks.length === 1 ? '1 difference' : hunks.length + ' differences';
	document.getElementById('tools').hidden = false;
})();
