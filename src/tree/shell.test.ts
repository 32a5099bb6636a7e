import { describe, expect, it } from 'vitest';
import { toNodeId, toPfn } from '#base/units';
import { Machine, simpleSpec } from '#mm/index';
import { kernelTree } from './kernel-tree.ts';
import { Shell } from './shell.ts';
import { LAST_STATUS, parseLine } from './shell-words.ts';

const GIB = 2 ** 30;

function shellOn(machine = Machine.boot(simpleSpec(2 * GIB))): {
  m: Machine;
  sh: Shell;
  say: (line: string) => string;
} {
  const sh = new Shell(machine, kernelTree(machine));
  const say = (line: string): string => {
    const { out, err } = sh.run(line);
    return out + err;
  };
  return { m: machine, sh, say };
}

describe('lines', () => {
  const words = (line: string): unknown => {
    const parsed = parseLine(line);
    if (!parsed.ok) return parsed.error;
    return parsed.value.map((c) => [...c.words.map((w) => w.text), ...(c.to === undefined ? [] : ['>', c.to.text])]);
  };

  it('SH1 words, quotes, redirection and comments', () => {
    expect(words('echo  a\\ b "c > d" \'e;f\'; ls>x # no')).toEqual([
      ['echo', 'a b', 'c > d', 'e;f'],
      ['ls', '>', 'x'],
    ]);
    expect(words('echo "" $? "$?" \'$?\'')).toEqual([['echo', '', LAST_STATUS, LAST_STATUS, '$?']]);
    expect(words('echo a#b')).toEqual([['echo', 'a#b']]);
    expect(words(' ; ;')).toEqual([]);
    expect(words('echo x >> y')).toEqual([['echo', 'x', '>', 'y']]);
    for (const line of ['a | b', 'a &', 'a && b', 'a < b']) expect(words(line)).toMatch(/is not known here/);
    expect(words("echo 'a")).toBe("the quote ' is not closed");
    expect(words('echo a >')).toBe('a file name is missing behind >');
    expect(words('echo a > b > c')).toBe('output can go to one file only');
  });
});

describe('shell', () => {
  it('SH2 echo into state, and what Linux says', () => {
    const { m, sh, say } = shellOn();
    expect(say('echo offline > memory3/state')).toBe('');
    expect(say('cat memory3/state')).toBe('offline\n');
    expect(say('echo offline > memory3/state; echo $?')).toBe('1\nsh: write error: Invalid argument\n');
    expect(say('echo offline > memory0/state')).toBe('sh: write error: Invalid argument\n');
    expect(say('echo 0 > memory3/removable')).toBe("sh: can't create memory3/removable: Permission denied\n");
    expect(say('echo x > nowhere')).toBe("sh: can't create nowhere: nonexistent directory\n");
    expect(say('echo x > memory3')).toBe("sh: can't create memory3: Is a directory\n");
    expect(say('echo -n online_movable > memory3/state; cat memory3/valid_zones')).toBe('Movable\n');
    expect(sh.run('nonsense').status).toBe(127);
    expect(sh.run('echo |').status).toBe(2);
    expect(m.check()).toEqual([]);
  });

  it('SH3 looking around', () => {
    const { say } = shellOn();
    expect(say('pwd')).toBe('/sys/devices/system/memory\n');
    expect(say('cat memory1?/phys_index')).toBe(
      [10, 11, 12, 13, 14, 15].map((n) => `0000000${n.toString(16)}\n`).join(''),
    );
    expect(say('cd memory3/node0; pwd; ls -l memory4')).toContain('/sys/devices/system/memory/memory3/node0\n');
    expect(say('cat distance; cd ..; pwd')).toBe('10\n/sys/devices/system/memory/memory3\n');
    expect(say('ls -l node0/memory5 subsystem')).toContain('subsystem:\n');
    expect(say('stat node0')).toBe(
      '  File: node0 -> ../../node/node0\n  Size: 0  symbolic link\nAccess: (0777/lrwxrwxrwx)\n',
    );
    expect(say('cat nope state')).toBe('online\ncat: nope: No such file or directory\n');
    expect(say('cat /proc/kpageflags')).toBe('cat: /proc/kpageflags: words of 64 bits, no text\n');
    expect(say('cat ../power')).toBe('cat: ../power: Is a directory\n');
    expect(say('cd state')).toBe("sh: cd: can't cd to state: Not a directory\n");
    expect(say('cat nothing*')).toBe('cat: nothing*: No such file or directory\n');
    expect(say('cd /; ls')).toBe('proc\nsys\n');
    expect(say('ls s*/module')).toBe('memory_hotplug\n');
    expect(say('help')).toContain('eject BLOCK');
    expect(say('history').split('\n').length).toBeGreaterThan(10);
  });

  it('SH5 a DIMM comes, is refused to go twice, and goes', () => {
    const { m, say } = shellOn();
    expect(say('add 1G 0')).toBe('memory32-39 on node 0, 8 online\n');
    expect(say('add 100M')).toMatch(/^add: EINVAL: Block size/);
    expect(say('add 1024')).toMatch(/^add: a size with a unit/);
    expect(say('add 1G 99')).toMatch(/^add: EINVAL/);
    expect(say('remove 32-39')).toMatch(/^remove: EBUSY: .*is onlined\n$/);
    m.pin(toPfn(m.alloc(m.addHolder({ class: 'slab', name: 's', node: toNodeId(0) }), 0 as never)));
    expect(say('eject 32-39')).toMatch(/^eject: EBUSY: .*7 blocks are back online\n$/);
    expect(say('echo offline > memory39/state; remove memory39')).toBe('memory39 removed\n');
    expect(say('remove 39')).toMatch(/^remove: ENOENT/);
    expect(say('eject 33-38')).toBe('memory33-38 removed\n');
    expect(say('remove x')).toMatch(/^remove: blocks are wanted/);
    expect(m.check()).toEqual([]);
  });

  it('SH6 completion', () => {
    const { sh } = shellOn();
    expect(sh.complete('ec')).toEqual([['echo '], 'ec']);
    expect(sh.complete('cat memory12/va')).toEqual([['memory12/valid_zones '], 'memory12/va']);
    expect(sh.complete('cat memory12')).toEqual([['memory12/'], 'memory12']);
    expect(sh.complete('echo offl')).toEqual([['offline '].map((w) => w.trim()), 'offl']);
    expect(sh.complete('ls blo')).toEqual([['blocks', 'block_size_bytes '], 'blo']);
    expect(sh.complete('cat x; p')).toEqual([['pwd '], 'p']);
    expect(sh.complete('cat /proc/kpagef')).toEqual([['/proc/kpageflags '], '/proc/kpagef']);
    expect(sh.complete('echo offline >memory3/st')).toEqual([['memory3/state '], 'memory3/st']);
    expect(sh.complete('cat memory3/node')).toEqual([['memory3/node0/'], 'memory3/node']);
  });

  it('SH7 the status of a session', () => {
    const { sh } = shellOn();
    sh.run('true');
    expect(sh.exitStatus).toBe(0);
    sh.run('cat nope; nonsense; true');
    expect(sh.exitStatus).toBe(127);
    expect(sh.run('exit 3; echo not reached')).toEqual({ out: '', err: '', status: 3, exit: true });
    expect(sh.exitStatus).toBe(3);
  });
});
