// prometheus: the report as metrics in the text format that node_exporter's textfile collector reads.
//
//   # HELP dimmer_free_chunks Free pieces of 2^order pages that may be used.
//   # TYPE dimmer_free_chunks gauge
//   dimmer_free_chunks{node="0",zone="DMA32",order="9"} 214
//
// Own prefix, base units (bytes, ratios from 0 to 1), no address, page or process in a label: cardinality is nodes x zones x
// orders. What node_exporter has already (buddyinfo, meminfo) is not repeated: these are the figures that mean something.
// Families come in a fixed order, samples in the order of the report: two runs on one machine give the same bytes, but
// for the time.
//
// Format: https://prometheus.io/docs/instrumenting/exposition_formats/

import { PAGE_SIZE } from '#mm/index';
import type { BlockVerdict } from '#twin/index';
import { type DoctorReport, SEVERITIES } from './doctor.ts';
import { usableChunks } from './doctor-room.ts';

type Labels = Readonly<Record<string, string | number>>;
type Sample = readonly [labels: Labels, value: number];
type Family = { readonly name: string; readonly help: string; readonly samples: readonly Sample[] };

/** Orders whose chunks are counted: what huge pages and large buffers are made of. */
const ORDERS = [4, 9, 10] as const;

/** @param takenAt  seconds since 1970; absent where the capture does not know. @returns the whole file, LF at the end */
export function prometheusText(
  report: DoctorReport,
  verdicts: readonly BlockVerdict[],
  takenAt: number | undefined,
): string {
  const families: Family[] = [
    {
      name: 'dimmer_findings',
      help: 'Findings of dimmer doctor by severity; bad: it hurts now.',
      samples: SEVERITIES.map((severity) => [{ severity }, report.counts[severity]]),
    },
    {
      name: 'dimmer_finding',
      help: 'How often each finding came up, by its code.',
      samples: tally(report.findings.map((f) => ({ code: f.code, severity: f.severity }))),
    },
    {
      name: 'dimmer_free_chunks',
      help: 'Free pieces of 2^order pages that a request would get now; those that have to stay free do not count.',
      samples: report.zones.flatMap((z) =>
        ORDERS.map((order): Sample => [{ node: z.node, zone: z.zone, order }, usableChunks(z, order)]),
      ),
    },
    {
      name: 'dimmer_free_unusable_ratio',
      help: 'Share of the free memory that lies in pieces smaller than 2 MiB.',
      samples: report.zones.map((z) => [{ node: z.node, zone: z.zone }, z.extfrag / 100]),
    },
    {
      name: 'dimmer_fragmentation_score_ratio',
      help: 'Fragmentation of a node as proactive compaction sees it, 0 to 1.',
      samples: report.nodes.map((n) => [{ node: n.node }, n.score / 100]),
    },
    {
      name: 'dimmer_zone_free_above_high_bytes',
      help: 'Free memory above the high watermark; negative: kswapd is at work.',
      samples: report.zones.map((z) => [{ node: z.node, zone: z.zone }, (z.free - z.high) * PAGE_SIZE]),
    },
    {
      name: 'dimmer_memory_blocks',
      help: 'Memory blocks by node, zone, state and whether they could go offline (none: offline already).',
      samples: tally(
        verdicts.map((v) => ({
          node: v.nodes[0] ?? 0,
          zone: v.zones.length === 1 ? (v.zones[0] as string) : 'none',
          state: v.state,
          verdict: v.verdict ?? 'none',
        })),
      ),
    },
    {
      name: 'dimmer_memory_block_size_bytes',
      help: 'Size of one memory block.',
      samples: [[{}, report.source.blockSizeBytes]],
    },
    {
      name: 'dimmer_largest_dimm_bytes',
      help: 'Largest DIMM that could be added now: its memory map finds room, and the hypervisor has as much left.',
      samples: [[{}, report.largestDimmBytes.value]],
    },
    {
      name: 'dimmer_need_met',
      help: 'Whether the chunks that were asked for (--need) can be had: 1 or 0.',
      samples: report.need === undefined ? [] : [[{ order: report.need.order }, report.need.met ? 1 : 0]],
    },
    {
      name: 'dimmer_doctor_timestamp_seconds',
      help: 'When the machine was read.',
      samples: takenAt === undefined ? [] : [[{}, takenAt]],
    },
  ];
  return families
    .filter((f) => f.samples.length > 0)
    .map(
      (f) =>
        `# HELP ${f.name} ${f.help.replace(/\\/g, '\\\\').replace(/\n/g, '\\n')}\n# TYPE ${f.name} gauge\n${f.samples
          .map(([labels, value]) => `${f.name}${sayLabels(labels)} ${value}\n`)
          .join('')}`,
    )
    .join('');
}

/** Is this text a file of ours? What may be replaced without asking. */
export const isPrometheusText = (text: string): boolean => text.startsWith('# HELP dimmer_');

/** How often each set of labels comes; in the order of first sight. */
function tally(all: readonly Labels[]): Sample[] {
  const counts = new Map<string, { labels: Labels; n: number }>();
  for (const labels of all) {
    const key = JSON.stringify(labels);
    const known = counts.get(key);
    if (known === undefined) counts.set(key, { labels, n: 1 });
    else known.n++;
  }
  return [...counts.values()].map(({ labels, n }) => [labels, n]);
}

function sayLabels(labels: Labels): string {
  const parts = Object.entries(labels).map(([name, value]) => `${name}="${escaped(String(value))}"`);
  return parts.length === 0 ? '' : `{${parts.join(',')}}`;
}

const escaped = (text: string): string => text.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n');
