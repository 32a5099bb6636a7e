// The mount table: which file system lies on top of a path, from /proc/self/mountinfo.
//
//   36 35 0:31 / /mnt/t rw,relatime shared:1 - fuse.dimmer dimmer-4711-9f3a rw,user_id=0,...
//   id parent dev root mount-point options [optional] - type source super-options
//
// Lines come in the order of mounting; the last one for a path is what is seen there. Blanks, tabs, newlines and
// backslashes in paths are octal escapes. Follows Linux fs/proc_namespace.c (show_mountinfo) and proc(5).

export type Mount = { readonly at: string; readonly type: string; readonly source: string; readonly id: number };

/** The type that mount(8) is given: kernel type fuse, subtype dimmer. */
export const FUSE_TYPE = 'fuse.dimmer';

/** Lines that are no mount (there are none, in practice) are left out. */
export function parseMountinfo(text: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of text.split('\n')) {
    const [left, right] = line.split(' - ');
    const words = left?.split(' ') ?? [];
    const [type, source] = right?.split(' ') ?? [];
    const at = words[4];
    if (at === undefined || type === undefined || source === undefined) continue;
    mounts.push({ id: Number(words[0]), at: unescapePath(at), type, source });
  }
  return mounts;
}

/** What lies on top of a path; undefined when nothing is mounted right there. */
export const topMount = (mounts: readonly Mount[], path: string): Mount | undefined =>
  mounts.findLast((m) => m.at === path);

/** As the kernel escapes a path in mountinfo. */
export const escapePath = (path: string): string =>
  path.replace(/[ \t\n\\]/g, (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}`);

const unescapePath = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
