import { describe, expect, it } from 'vitest';
import { goldenText } from '../../test/golden/kernfs/load.ts';
import { formatProblem } from './text.ts';
import { parseNodeVmstat, parseVmstat, printVmstat } from './vmstat.ts';

const refusal = (text: string) => {
  const parsed = parseVmstat(text);
  return parsed.ok ? undefined : formatProblem(parsed.error);
};

describe('vmstat', () => {
  it('keeps the order of the file and finds counters by name', () => {
    const parsed = parseVmstat(goldenText('host-6.18/vmstat'));
    expect(parsed.ok && [...parsed.value.keys()].slice(0, 2)).toEqual(['nr_free_pages', 'nr_free_pages_blocks']);
    expect(parsed.ok && parsed.value.get('nr_memmap_boot_pages')).toBe(98304);
  });
  it('KF5 the machine file without nr_unstable has lost its tail; a node file never had it', () => {
    expect(refusal('nr_free_pages 1\n')).toBe('/proc/vmstat: the file ends before nr_unstable: its tail is missing');
    expect(parseNodeVmstat('nr_free_pages 1\n')).toEqual({ ok: true, value: new Map([['nr_free_pages', 1]]) });
  });
  it('a counter that went below zero keeps its bytes', () => {
    const text = 'nr_zone_write_pending 18446744073709551611\nnr_unstable 0\n';
    const parsed = parseVmstat(text);
    expect(parsed.ok && parsed.value.get('nr_zone_write_pending')).toBe(-5);
    expect(parsed.ok && printVmstat(parsed.value)).toBe(text);
  });
  it('KF3 refuses repeated names and lines of another kind, naming the line', () => {
    expect(refusal('a 1\na 2\n')).toBe('/proc/vmstat, line 2: a was given before');
    expect(refusal('a 1\nb: 2\n')).toBe('/proc/vmstat, line 2: expected a name and a count, found "b: 2"');
    expect(refusal('a 9007199254740993\n')).toMatch(/^\/proc\/vmstat, line 1: expected a name and a count/);
  });
});
