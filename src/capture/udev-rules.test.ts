// udev's rules in captures. Rules: docs/spec/doctor.md.

import { describe, expect, it } from 'vitest';
import { fakeMachine } from '../../test/support/fake-machine.ts';
import { gather } from './gather.ts';
import { isKernelPath, RecordedTree } from './recorded-tree.ts';
import { effectiveRules, memoryRulesOf, statesWritten } from './udev-rules.ts';

/** As distributions ship them, shortened; written by us after their documentation. */
const VARIABLE = `# Memory hotadd request
SUBSYSTEM!="memory", GOTO="memory_hotplug_end"
ACTION!="add", GOTO="memory_hotplug_end"
ENV{.state}="online"
PROGRAM="/bin/systemd-detect-virt", RESULT=="none", ENV{.state}="online_movable"
ATTR{state}=="offline", ATTR{state}="$env{.state}"
LABEL="memory_hotplug_end"
SUBSYSTEM=="cpu", ACTION=="add", ATTR{online}=="0", ATTR{online}="1"
KERNEL=="sda", RUN+="/usr/bin/secret --password=hunter2"
`;
const PLAIN = 'SUBSYSTEM=="memory", ACTION=="add", \\\n  ATTR{state}=="offline", ATTR{state}="online_movable"\n';
const FOREIGN = 'SUBSYSTEM=="block", RUN+="/usr/bin/secret"\nSUBSYSTEM=="cpu", ATTR{online}="1"\n';

const kept = (files: Readonly<Record<string, string | undefined>>): Record<string, string> => {
  const machine = fakeMachine();
  for (const [path, text] of Object.entries(files)) {
    machine.files.set(path, text ?? '');
    if (text === undefined) machine.denied.set(path, { kind: 'denied', detail: 'not a regular file' });
  }
  const tree = gather(machine, { kind: 'live', name: 'x' })?.tree;
  if (!(tree instanceof RecordedTree)) throw new Error('a gathered tree is a recorded one');
  return Object.fromEntries(tree.files.filter((f) => f.path.includes('udev')).map((f) => [f.path, f.text]));
};

describe('rules about memory', () => {
  it('DO9 a capture holds them and nothing else of the files', () => {
    expect(
      kept({
        '/usr/lib/udev/rules.d/40-vendor.rules': VARIABLE,
        '/usr/lib/udev/rules.d/60-block.rules': FOREIGN,
        '/usr/lib/udev/rules.d/README': 'SUBSYSTEM=="memory" secret',
        '/etc/udev/rules.d/90-mine.rules': PLAIN,
        '/etc/udev/secret': 'x',
      }),
    ).toEqual({
      '/etc/udev/rules.d/90-mine.rules':
        'SUBSYSTEM=="memory", ACTION=="add", ATTR{state}=="offline", ATTR{state}="online_movable"\n',
      '/usr/lib/udev/rules.d/40-vendor.rules':
        'SUBSYSTEM!="memory", GOTO="memory_hotplug_end"\nENV{.state}="online"\n' +
        'PROGRAM="/bin/systemd-detect-virt", RESULT=="none", ENV{.state}="online_movable"\n' +
        'ATTR{state}=="offline", ATTR{state}="$env{.state}"\n',
    });
  });

  it('DO9 a file hides those of its name in later places, empty, linked to /dev/null, or about other things', () => {
    const vendor = { '/usr/lib/udev/rules.d/40.rules': PLAIN, '/lib/udev/rules.d/40.rules': PLAIN };
    expect(Object.keys(kept(vendor))).toEqual(['/usr/lib/udev/rules.d/40.rules']);
    for (const mine of ['', FOREIGN, undefined])
      expect(kept({ ...vendor, '/etc/udev/rules.d/40.rules': mine }), String(mine)).toEqual({});
    expect(Object.keys(kept({ ...vendor, '/run/udev/rules.d/40.rules': PLAIN }))).toEqual([
      '/run/udev/rules.d/40.rules',
    ]);
  });

  it('DO9 whoever makes a tree: rules about other things do not get in, and no other path of /etc does', () => {
    const file = (path: string, text: string) => ({ path, kind: 'text' as const, text, startedMs: 0, endedMs: 0 });
    expect(new RecordedTree([file('/etc/udev/rules.d/1.rules', FOREIGN), file('/proc/a', 'b')]).files).toHaveLength(1);
    for (const path of [
      '/etc/passwd',
      '/etc/udev/rules.d/a',
      '/etc/udev/rules.d/../x.rules',
      '/etc/udev/rules.d/a/b.rules',
    ])
      expect(isKernelPath(path), path).toBe(false);
    expect(isKernelPath('/etc/udev/rules.d/40-a.rules')).toBe(true);
  });

  it('DO8 what a rule writes: directly, by a variable, by a program, or to `online`', () => {
    const writes = (text: string, virtual?: boolean): readonly string[] =>
      statesWritten(memoryRulesOf(text), { virtual });
    expect(writes(PLAIN)).toEqual(['online_movable']);
    expect(writes(VARIABLE, true)).toEqual(['online']);
    expect(writes(VARIABLE, false)).toEqual(['online_movable']);
    expect(writes(VARIABLE)).toEqual(['online', 'online_movable']);
    expect(writes('SUBSYSTEM=="memory", ATTR{online}=="0", ATTR{online}="1"')).toEqual(['online']);
    expect(writes('SUBSYSTEM=="memory", RUN+="/bin/sh -c \'echo online_kernel > /sys$devpath/state\'"')).toEqual([
      'online_kernel',
    ]);
    expect(writes('SUBSYSTEM=="memory", ATTR{state}=="offline", TAG+="x"')).toEqual([]);
    expect(writes('# SUBSYSTEM=="memory", ATTR{state}="online"')).toEqual([]);
    expect(writes(FOREIGN)).toEqual([]);
  });

  it('DO9 rules count by name, as udev reads them', () => {
    expect(
      effectiveRules([
        '/lib/udev/rules.d/b.rules',
        '/etc/udev/rules.d/c.rules',
        '/run/udev/rules.d/a.rules',
        '/proc/x',
      ]),
    ).toEqual(['/run/udev/rules.d/a.rules', '/lib/udev/rules.d/b.rules', '/etc/udev/rules.d/c.rules']);
  });
});
