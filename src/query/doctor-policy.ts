// doctor, policy: what happens to memory that is added next, and who decides it.
//
//   auto_online_blocks    offline ──> whoever comes next: a udev rule, chmem, an agent
//                         online  ──> online_policy: contig-zones (a kernel zone, unless movable_node), auto-movable (by ratio)
//                         online_kernel, online_movable: that zone, the policy is never asked
//
//   udev-conflict         kernel and rule, or two rules, would choose differently: whoever is first wins, block by block
//   udev-rule             one rule decides alone; a plain "online" is a kernel zone under contig-zones
//   policy-idle           auto-movable is set, and auto_online_blocks never asks it
//   policy-always-kernel  auto-movable with a ratio of 0
//   next-add-one-way      all that is added from now on goes to a kernel zone, and may never come out again
//
// The last one is for machines to which memory does come (some was added, or a hypervisor was asked): for all others it is
// no news. Source: Linux v6.12 mm/memory_hotplug.c: default_zone_for_pfn(), auto_movable_zone_for_pfn(); spec 1.7 to 1.9.

import { effectiveRules, statesWritten, UDEV_DIRECTORIES } from '#capture/udev-rules';
import { cmdlineValue, parseCmdline } from '#kernfs/cmdline';
import { type MemhpParams, readMemhpParams } from '#kernfs/memhp-params';
import { readMemoryBlocks } from '#kernfs/memory-blocks';
import type { Twin } from '#twin/index';
import type { Finding, Seen } from './doctor.ts';
import type { AddedRange } from './hot-added.ts';

const AUTO = '/sys/devices/system/memory/auto_online_blocks';
const PARAMS = '/sys/module/memory_hotplug/parameters';

type Zone = 'kernel' | 'Movable' | 'by ratio';

export function policyFindings(twin: Twin, added: readonly AddedRange[], seen: Seen): readonly Finding[] {
  const { tree } = twin.capture;
  const memory = readMemoryBlocks(tree);
  const auto = memory.ok ? memory.value.autoOnlineBlocks : undefined;
  if (auto === undefined) return [];
  const read = readMemhpParams(tree);
  const params: MemhpParams = read.ok ? read.value : {};
  const cmdline = parseCmdline(tree.readText('/proc/cmdline') ?? '');
  const movableNode = cmdline.ok && cmdlineValue(cmdline.value, 'movable_node') !== undefined;
  const zoneOf = (word: string): Zone => {
    if (word === 'online_movable') return 'Movable';
    if (word === 'online_kernel') return 'kernel';
    if (params.onlinePolicy === 'auto-movable') return params.autoMovableRatio === 0 ? 'kernel' : 'by ratio';
    return movableNode ? 'Movable' : 'kernel';
  };
  const rules = rulesOf(twin);
  const evidence = [
    `auto_online_blocks ${auto}`,
    ...rules.map((r) => `${r.path} writes ${r.words.join(' or ')}`),
    `online_policy ${params.onlinePolicy ?? 'contig-zones (this kernel has no other)'}`,
  ];
  // Each decider with the zones that it may choose.
  const deciders = [...(auto === 'offline' ? [] : [[auto]]), ...rules.map((r) => r.words)].map((words) => [
    ...new Set(words.filter((w) => w !== 'offline').map(zoneOf)),
  ]);
  const zones = [...new Set(deciders.flat())];
  const out: Finding[] = [...ruleFindings({ auto, rules, deciders, evidence })];

  if (params.onlinePolicy === 'auto-movable' && (auto === 'online_movable' || auto === 'online_kernel')) {
    out.push({
      code: 'policy-idle',
      severity: 'warn',
      sentence: `online_policy auto-movable is never asked: auto_online_blocks ${auto} chooses the zone, without looking at the ratio`,
      evidence,
      fix: [`echo online > ${AUTO}`, `or drop the policy: echo contig-zones > ${PARAMS}/online_policy`],
      provenance: 'measured',
    });
  }
  if (params.onlinePolicy === 'auto-movable' && params.autoMovableRatio === 0) {
    out.push({
      code: 'policy-always-kernel',
      severity: 'warn',
      sentence: 'online_policy auto-movable with auto_movable_ratio 0 puts all added memory into kernel zones',
      evidence,
      fix: [`echo 301 > ${PARAMS}/auto_movable_ratio    # the kernel's default`],
      provenance: 'measured',
    });
  }
  const comes = added.length > 0 || seen.hypervisor !== undefined;
  if (comes && rules.length === 0 && zones.length > 0 && zones.every((z) => z === 'kernel')) {
    out.push({
      code: 'next-add-one-way',
      severity: 'warn',
      sentence:
        'memory that is added goes to a kernel zone at once: a second later a kernel page may sit in it, and it cannot be taken back',
      evidence,
      fix: [
        `echo online_movable > ${AUTO}    # boot parameter memhp_default_state=online_movable`,
        `or by ratio: echo auto-movable > ${PARAMS}/online_policy, with auto_online_blocks online`,
      ],
      provenance: 'measured',
    });
  }
  return out;
}

/** What udev's rules do beside the kernel. */
function ruleFindings(x: {
  readonly auto: string;
  readonly rules: readonly Rule[];
  readonly deciders: readonly (readonly Zone[])[];
  readonly evidence: readonly string[];
}): Finding[] {
  const { auto, rules, deciders, evidence } = x;
  const [rule] = rules;
  if (rule === undefined) return [];
  const hide = `ln -s /dev/null /etc/udev/rules.d/${nameOf(rule.path)}`;
  const disagree = deciders.some((a) =>
    deciders.some((b) => a.length > 0 && b.length > 0 && !a.some((z) => b.includes(z))),
  );
  if (disagree) {
    const who = auto === 'offline' ? 'udev rules do' : 'the kernel and a udev rule do';
    return [
      {
        code: 'udev-conflict',
        severity: 'warn',
        sentence: `${who} not agree on the zone of added memory: ${deciders.map(sayZones).join(' against ')}`,
        evidence,
        fix: [`one owner: hide the rule (${hide}), and echo online_movable > ${AUTO}`],
        provenance: 'measured',
      },
    ];
  }
  const chosen = deciders.flat();
  const alone = auto === 'offline';
  return [
    {
      code: 'udev-rule',
      severity: alone && chosen.includes('kernel') ? 'warn' : 'note',
      sentence: alone
        ? `a udev rule onlines added memory, to ${sayZones(chosen)}; where memory is short udev comes too late`
        : 'a udev rule onlines added memory as well, and finds that the kernel has done it',
      evidence,
      fix: [`let the kernel do it: echo online_movable > ${AUTO}, and hide the rule (${hide})`],
      provenance: 'measured',
    },
  ];
}

type Rule = { readonly path: string; readonly words: readonly string[] };

/** Rules that count and write a state, by name as udev reads them. */
function rulesOf(twin: Twin): Rule[] {
  const { tree } = twin.capture;
  const cpu = tree.readText('/proc/cpuinfo');
  const virtual = cpu === undefined ? undefined : /^flags\s*:.*\bhypervisor\b/m.test(cpu);
  const paths = UDEV_DIRECTORIES.flatMap((d) => tree.list(d).map((name) => `${d}/${name}`));
  return effectiveRules(paths)
    .map((path) => ({ path, words: statesWritten(tree.readText(path) ?? '', { virtual }) }))
    .filter((r) => r.words.length > 0);
}

const nameOf = (path: string): string => path.slice(path.lastIndexOf('/') + 1);
const SAY_ZONE: Readonly<Record<Zone, string>> = {
  kernel: 'a kernel zone',
  Movable: 'ZONE_MOVABLE',
  'by ratio': 'whichever the ratio allows',
};
const sayZones = (zones: readonly Zone[]): string => [...new Set(zones)].map((z) => SAY_ZONE[z]).join(' or ');
