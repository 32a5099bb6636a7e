import { describe, expect, it } from 'vitest';
import { firstBadPath, isKernelPath, type RecordedFile, RecordedTree } from './recorded-tree.ts';

const file = (path: string, text = 'x'): RecordedFile => ({ path, kind: 'text', text, startedMs: 0, endedMs: 0 });

describe('RecordedTree', () => {
  it('RT1 only normal paths below /proc and /sys may be in a capture', () => {
    for (const good of ['/proc/zoneinfo', '/sys/a/b-c_d.e', '/proc/sys/vm/..x', '/sys/x/a:b'])
      expect(isKernelPath(good), good).toBe(true);
    const bad = [
      ...['', '/', '/proc', '/proc/', '/proc//x', '/proc/../etc/passwd', '/proc/x/..', '/sys/./x', 'proc/x', '/etc/x'],
      ...['/procx/y', '/proc/a b', '/proc/a\nb', '/proc/a\u001bb', '/proc/é', `/proc/${'x'.repeat(600)}`],
    ];
    for (const path of bad) expect(isKernelPath(path), JSON.stringify(path)).toBe(false);
  });

  it('RT2 a path twice, or one below another, is no tree', () => {
    expect(firstBadPath(['/proc/a', '/proc/b'])).toBeUndefined();
    expect(firstBadPath(['/proc/a', '/proc/b', '/proc/a'])).toBe('/proc/a');
    expect(firstBadPath(['/proc/a/b/c', '/proc/a'])).toBe('/proc/a/b/c');
    expect(firstBadPath(['/proc/ab', '/proc/a'])).toBeUndefined();
    expect(() => new RecordedTree([file('/proc/a'), file('/proc/a/b')])).toThrow('may not hold');
  });

  it('RT3 files come sorted by path, whatever order they were recorded in', () => {
    const tree = new RecordedTree([file('/sys/b'), file('/proc/z'), file('/proc/a', '')]);
    expect(tree.files.map((f) => f.path)).toEqual(['/proc/a', '/proc/z', '/sys/b']);
    expect(tree.readText('/proc/a')).toBe(''); // empty is not absent
    expect(tree.readText('/proc/b')).toBeUndefined();
    expect(tree.list('/proc')).toEqual(['a', 'z']);
  });
});
