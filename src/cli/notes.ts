// Notes: what a capture lacks or doubts, for stderr. Problems that one remedy cures are one note.
//
//   note: 6 files could not be read as this user
//         /proc/kpageflags denied: what each page holds: ...
//         /proc/iomem hidden: where memory and devices lie ...
//         remedy: run it as root (sudo dimmer capture -o FILE), then use the file as anyone

import type { CaptureProblem } from '#capture/capture';

const stripDot = (sentence: string): string => sentence.replace(/\.$/, '');

/** What comes before the first semicolon: the cure itself; what follows are conditions of one file. */
const cureOf = (p: CaptureProblem): string => (stripDot(p.remedy).split('; ')[0] as string).trim(); // split yields one or more

/** One note, with its line breaks, for each cure; in the order in which their first problem came. */
export function notesOf(problems: readonly CaptureProblem[]): string[] {
  const groups = new Map<string, CaptureProblem[]>();
  for (const p of problems) groups.set(cureOf(p), [...(groups.get(cureOf(p)) ?? []), p]);
  return [...groups].map(([cure, group]) => {
    const [only] = group;
    if (group.length === 1 && only !== undefined) {
      return `note: ${only.file} ${only.kind}: ${stripDot(only.detail)}\n      lost: ${stripDot(only.lost)}\n      remedy: ${stripDot(only.remedy)}`;
    }
    const lines = group.map((p) => `      ${p.file} ${p.kind}: lost: ${stripDot(p.lost)}`);
    return `note: ${group.length} files are missing or say too little\n${lines.join('\n')}\n      remedy: ${cure}`;
  });
}
