// An initramfs as one file: the "newc" cpio format that the kernel unpacks, written byte for byte the same every time.
//
//   070701 | inode | mode | uid | gid | nlink | mtime | filesize | devmajor, devminor | rdevmajor, rdevminor | namesize | check
//   six characters, then thirteen fields of eight hexadecimal digits; the name and a NUL, padded to four; the data, padded to four
//
// Order is by name, owners and times are zero, inodes are numbered as they come: the same files give the same archive, so
// that a guest can be told by the hash of it. Source: Documentation/driver-api/early-userspace/buffer-format.rst.

const HEADER_BYTES = 110;
const MODE = Object.freeze({ dir: 0o040755, file: 0o100644, program: 0o100755, link: 0o120777, device: 0o020600 });

const pad4 = (length) => (4 - (length % 4)) % 4;

function entry(inode, name, mode, data, rdev = [0, 0]) {
  const nameBytes = Buffer.from(`${name}\0`);
  const nlink = mode === MODE.dir ? 2 : 1;
  const fields = [inode, mode, 0, 0, nlink, 0, data.length, 0, 0, rdev[0], rdev[1], nameBytes.length, 0];
  const header = Buffer.from(`070701${fields.map((f) => f.toString(16).padStart(8, '0')).join('')}`);
  const namePad = Buffer.alloc(pad4(HEADER_BYTES + nameBytes.length));
  return [header, nameBytes, namePad, data, Buffer.alloc(pad4(data.length))];
}

/**
 * @param files by absolute path in the guest: { data: Buffer, program?: true } | { link: string } | { device: [major, minor] }
 *   | { dir: true }; folders above a file are made
 * @returns the archive; cost: one copy of everything
 */
export function writeCpio(files) {
  const all = new Map(files);
  for (const path of files.keys()) {
    const parts = path.split('/').slice(1, -1);
    for (let k = 1; k <= parts.length; k++) {
      const dir = `/${parts.slice(0, k).join('/')}`;
      if (!all.has(dir)) all.set(dir, { dir: true });
    }
  }
  const names = [...all.keys()].sort();
  const none = Buffer.alloc(0);
  const pieces = names.flatMap((path, k) => {
    const name = path.slice(1);
    const file = all.get(path);
    if (file.dir) return entry(k + 1, name, MODE.dir, none);
    if (file.link !== undefined) return entry(k + 1, name, MODE.link, Buffer.from(file.link));
    if (file.device !== undefined) return entry(k + 1, name, MODE.device, none, file.device);
    return entry(k + 1, name, file.program ? MODE.program : MODE.file, file.data);
  });
  pieces.push(...entry(0, 'TRAILER!!!', 0, none));
  return Buffer.concat(pieces);
}
