// What others wrote is hostile: all that could hide, reorder or command becomes something that one can see.
const UNSEEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
export const visible = (text) =>
  String(text).replace(UNSEEN, (unseen) => {
    const code = unseen.codePointAt(0);
    if (code < 0x80) return `^${String.fromCharCode(code ^ 0x40)}`; // as terminals show it: ^[ for escape
    return `\u27e8U+${code.toString(16).toUpperCase().padStart(4, '0')}\u27e9`;
  });
/** A record's body; what is no UTF-8 as replacement characters. */
export function bodyText({ text = '', data }) {
  if (data === undefined) return text;
  const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
}
