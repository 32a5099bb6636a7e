import { describe, expect, it } from 'vitest';
import { goldenText } from '../../test/golden/kernfs/load.ts';
import { meminfoKb, parseMeminfo, printMeminfo } from './meminfo.ts';
import { formatProblem } from './text.ts';

const parsed = (text: string) => {
  const meminfo = parseMeminfo(text);
  return meminfo.ok ? meminfo.value : formatProblem(meminfo.error);
};
const printed = (text: string) => {
  const meminfo = parseMeminfo(text);
  return meminfo.ok ? printMeminfo(meminfo.value) : formatProblem(meminfo.error);
};

describe('meminfo', () => {
  it('tells kB from counts of huge pages', () => {
    const meminfo = parseMeminfo(goldenText('host-6.18/meminfo'));
    expect(meminfo.ok && meminfoKb(meminfo.value, 'MemTotal')).toBe(24684084);
    expect(meminfo.ok && meminfo.value.amounts.get('HugePages_Total')).toEqual({ value: 0, unit: 'pages' });
    expect(meminfo.ok && meminfoKb(meminfo.value, 'HugePages_Total')).toBeUndefined();
    expect(meminfo.ok && 'node' in meminfo.value).toBe(false);
  });
  it('a node file says which node it is about', () => {
    const meminfo = parseMeminfo(goldenText('guest-6.1-mixed-online/node/node1/meminfo'));
    expect(meminfo.ok && meminfo.value.node).toBe(1);
  });
  it('KF1 values wider than their column push the unit to the right', () => {
    const text = 'MemTotal:       123456789 kB\nHardwareCorrupted: 123456 kB\nHugePages_Total:   1234567\n';
    expect(printed(text)).toBe(text);
  });
  it('KF1 the blank that 6.1 forgot in node files is kept with the amount, not with the value', () => {
    const meminfo = parseMeminfo(goldenText('guest-6.1-mixed-online/node/node0/meminfo'));
    const amount = meminfo.ok ? meminfo.value.amounts.get('FileHugePages') : undefined;
    expect(amount).toEqual({ value: 0, unit: 'kB', labelWidth: 15 });
    const changed = new Map([['FileHugePages', { value: 123456, unit: 'kB', labelWidth: 15 } as const]]);
    expect(printMeminfo({ amounts: changed })).toBe('FileHugePages:   123456 kB\n');
  });
  it('a squeezed copy says nothing about columns: it prints as the kernel would', () => {
    const squeezed = parseMeminfo('MemTotal: 5 kB\n');
    expect(squeezed).toEqual({ ok: true, value: { amounts: new Map([['MemTotal', { value: 5, unit: 'kB' }]]) } });
    expect(squeezed.ok && printMeminfo(squeezed.value)).toBe('MemTotal:              5 kB\n');
  });
  it('KF3 refuses a missing head, repeated names, mixed nodes and other lines', () => {
    expect(parsed('MemFree: 1 kB\n')).toBe(
      '/proc/meminfo, line 1: expected MemTotal first, found MemFree: the head is missing',
    );
    expect(parsed('MemTotal: 1 kB\nMemTotal: 1 kB\n')).toBe('/proc/meminfo, line 2: MemTotal was given before');
    expect(parsed('Node 0 MemTotal: 1 kB\nNode 1 MemFree: 1 kB\n')).toBe(
      '/proc/meminfo, line 2: the line is about another node than the first one',
    );
    expect(parsed('MemTotal: 1 MB\n')).toBe(
      '/proc/meminfo, line 1: expected a name, a colon and an amount, found "MemTotal: 1 MB"',
    );
    expect(parsed('Node 5000 MemTotal: 1 kB\n')).toBe('/proc/meminfo, line 1: "5000" is not the number of a node');
  });
});
