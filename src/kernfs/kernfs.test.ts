// KF1, KF4, KF5 and KF6 over every golden file of every format.

import { describe, expect, it } from 'vitest';
import { FORMAT_CASES, squeezed } from './formats.cases.ts';

describe('kernel files', () => {
  it('there are golden files of 6.1, 6.12 and 6.18 for each format', () => {
    expect(FORMAT_CASES.length).toBe(32);
  });
  for (const { path, text, reprint, blanksCount } of FORMAT_CASES) {
    it(`KF1 ${path} prints back to the byte`, () => {
      expect(reprint(text)).toEqual({ ok: true, value: text });
    });
    it(`KF6 ${path} with CRLF reads like LF`, () => {
      expect(reprint(text.replaceAll('\n', '\r\n'))).toEqual({ ok: true, value: text });
    });
    // In iomem blanks are structure: iomem.test.ts has the texts that are refused for them.
    const inOtherBlanks = `KF2 ${path} with other runs of blanks says the same`;
    if (!blanksCount)
      it(inOtherBlanks, () => {
        const wider = text.replaceAll(/ +(?=[0-9>])/g, '$& ').replaceAll(/ +$/gm, '');
        const other = reprint(wider);
        expect(other.ok && squeezed(other.value)).toBe(squeezed(text));
      });
    it(`KF4 KF5 ${path} cut anywhere is refused, or is what stands before the cut`, () => {
      let refused = 0;
      for (let end = 0; end < text.length; end += text.length > 4096 ? 7 : 1) {
        const head = text.slice(0, end);
        const cut = reprint(head);
        if (cut.ok) expect(cut.value, `cut at ${end}`).toBe(head);
        else refused++;
        if (!head.endsWith('\n')) expect(cut.ok, `cut at ${end}, in the middle of a line`).toBe(false);
      }
      expect(refused).toBeGreaterThan(0);
    });
    it(`KF5 ${path} without a piece of whole lines is refused, or is the rest`, () => {
      const lines = text.split('\n').slice(0, -1);
      for (let start = 0; start < lines.length; start += 3) {
        for (const count of [1, 5, 20]) {
          const rest = `${lines.toSpliced(start, count).join('\n')}\n`;
          const parsed = reprint(rest);
          if (parsed.ok) expect(parsed.value, `without ${count} lines from ${start + 1}`).toBe(rest);
          else expect(parsed.error.reason).not.toBe('');
        }
      }
    });
  }
});
