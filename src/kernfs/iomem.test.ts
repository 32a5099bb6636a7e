import { describe, expect, it } from 'vitest';
import { assert } from '#base/assert';
import { goldenText } from '../../test/golden/kernfs/load.ts';
import { iomemHidden, parseIomem, printIomem, systemRamPfnRanges } from './iomem.ts';
import { formatProblem } from './text.ts';

function of(text: string) {
  const parsed = parseIomem(text);
  assert(parsed.ok, 'the text is sound', { problem: parsed.ok ? '' : formatProblem(parsed.error) });
  return parsed.value;
}
const refusal = (text: string) => {
  const parsed = parseIomem(text);
  return parsed.ok ? undefined : formatProblem(parsed.error);
};
const ram = (text: string) => systemRamPfnRanges(of(text)).map((r) => [r.startPfn, r.endPfn]);

describe('iomem', () => {
  it('ranges are half-open, depth is indentation', () => {
    const entries = of(goldenText('guest-6.1-virtio-mem/iomem'));
    expect(entries.find((e) => e.name === 'System RAM (virtio_mem)')).toEqual({
      depth: 1,
      startPhys: 0x100000000,
      endPhys: 0x128000000,
      name: 'System RAM (virtio_mem)',
    });
  });
  it('system RAM is found at any depth and under any driver, whole pages only', () => {
    expect(ram(goldenText('guest-6.1-virtio-mem/iomem'))).toEqual([
      [1, 0x9f],
      [0x100, 0x7ffdd],
      [0x100000, 0x128000],
    ]);
  });
  it('neighbouring DIMMs stay apart, and what lies inside a range is not counted twice', () => {
    expect(
      ram(
        '100000000-13fffffff : System RAM\n' +
          '  100000000-10fffffff : System RAM (kmem)\n' +
          '140000000-14fffffff : System RAM\n',
      ),
    ).toEqual([
      [0x100000, 0x140000],
      [0x140000, 0x150000],
    ]);
  });
  it('entries smaller than a page give none, names that only begin alike are not RAM', () => {
    expect(ram('00001800-000027ff : System RAM\n00003000-00003fff : System RAM2\n')).toEqual([]);
  });
  it('an unprivileged reader gets zeros: said, and no range is made of them', () => {
    const text = '00000000-00000000 : System RAM\n  00000000-00000000 : Kernel code\n00000000-00000000 : Reserved\n';
    expect(iomemHidden(of(text))).toBe(true);
    expect(systemRamPfnRanges(of(text))).toEqual([]);
    expect(printIomem(of(text))).toBe(text);
    expect(iomemHidden(of(goldenText('host-6.18/iomem')))).toBe(false);
    expect(iomemHidden([])).toBe(false);
  });
  it('KF1 addresses take eight digits or as many as they need', () => {
    const text = '00000000-00000fff : Reserved\nfd00000000-ffffffffff : Reserved\n';
    expect(printIomem(of(text))).toBe(text);
  });
  it('KF3 refuses impossible trees and other lines, naming the line', () => {
    const parent = '00001000-00001fff : a\n';
    expect(refusal(`${parent}    00001000-00001fff : b\n`)).toBe(
      '/proc/iomem, line 2: "b" is indented without a parent',
    );
    expect(refusal(`${parent}  00001000-00002fff : b\n`)).toBe(
      '/proc/iomem, line 2: "b" does not lie inside "a", its parent',
    );
    expect(refusal(`${parent}00001fff-00002fff : b\n`)).toBe(
      '/proc/iomem, line 2: "b" overlaps or precedes "a" before it',
    );
    expect(refusal('00002000-00001000 : a\n')).toBe(
      '/proc/iomem, line 1: the range 00002000-00001000 ends before it starts',
    );
    expect(refusal('00000000-ffffffffffffffff : a\n')).toBe(
      '/proc/iomem, line 1: 00000000-ffffffffffffffff is not a range of physical addresses below 2^53',
    );
    for (const line of [
      ' 00000000-00000fff : a',
      '00000000-00000fff: a',
      '000000000-00000fff : a',
      '0000000G-00000fff : a',
    ]) {
      expect(refusal(`${line}\n`), line).toMatch(/^\/proc\/iomem, line 1: /);
    }
  });
  it('at the greatest depth descendants of several levels stand at one indentation', () => {
    const deep = [0, 1, 2, 3, 4, 5, 5].map((d) => `${'  '.repeat(d)}00001000-00001fff : d${d}\n`).join('');
    expect(printIomem(of(deep))).toBe(deep);
    expect(refusal(`${deep}            00001000-00001fff : d6\n`)).toMatch(/indented 6 levels, the kernel stops at 5$/);
  });
});
