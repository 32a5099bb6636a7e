import { describe, expect, it } from 'vitest';
import { assert } from '#base/assert';
import { goldenText } from '../../test/golden/kernfs/load.ts';
import type { Cmdline } from './cmdline.ts';
import { cmdlineValue, cmdlineValues, parseCmdline, printCmdline } from './cmdline.ts';

function of(text: string): Cmdline {
  const line = parseCmdline(text);
  assert(line.ok, 'the test gives one line', { text });
  return line.value;
}

describe('cmdline', () => {
  it('KF1 prints back to the byte, odd spacing and quotes included', () => {
    for (const text of [
      goldenText('guest-6.1-mixed-online/cmdline'),
      goldenText('guest-6.12-memmap-on-memory/cmdline'),
      '  a="b c"   d \n',
      '\n',
    ]) {
      expect(printCmdline(of(text))).toBe(text);
    }
  });
  it('finds values by name; a bare word is there with an empty value', () => {
    const line = of(goldenText('guest-6.12-memmap-on-memory/cmdline'));
    expect(cmdlineValue(line, 'memory_hotplug.memmap_on_memory')).toBe('force');
    expect(cmdlineValue(line, 'movablecore')).toBeUndefined();
    expect(cmdlineValue(of('movable_node quiet\n'), 'movable_node')).toBe('');
  });
  it('a repeated name keeps all values in order, the last one is the value', () => {
    const line = of('console=tty0 console=ttyS0,115200\n');
    expect(cmdlineValues(line, 'console')).toEqual(['tty0', 'ttyS0,115200']);
    expect(cmdlineValue(line, 'console')).toBe('ttyS0,115200');
  });
  it('"-" and "_" are the same in names, not in values', () => {
    expect(cmdlineValue(of('memhp-default-state=online_movable\n'), 'memhp_default_state')).toBe('online_movable');
  });
  it('double quotes keep blanks together and are not part of the value', () => {
    expect(of('a="b c" "d=e f" g="h" i=j"k l" "m n"\n').words).toEqual([
      { key: 'a', value: 'b c' },
      { key: 'd', value: 'e f' },
      { key: 'g', value: 'h' },
      { key: 'i', value: 'j"k l"' },
      { key: 'm n' },
    ]);
  });
  it('only the first "=" separates, and none at the very start', () => {
    expect(of('root=UUID=1-2 =x\n').words).toEqual([{ key: 'root', value: 'UUID=1-2' }, { key: '=x' }]);
  });
  it('words behind "--" belong to init', () => {
    const line = of('quiet -- movable_node\n');
    expect(line.initWords).toEqual(['movable_node']);
    expect(cmdlineValue(line, 'movable_node')).toBeUndefined();
  });
  it('KF3 refuses a text of several lines', () => {
    expect(parseCmdline('a\nb\n')).toEqual({
      ok: false,
      error: { file: '/proc/cmdline', line: 2, reason: 'boot arguments are one line of text, this has more' },
    });
  });
});
