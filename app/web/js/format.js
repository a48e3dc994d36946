// Numbers and times as people read them.

const whole = new Intl.NumberFormat("en");

export const count = (number) => whole.format(number);
export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`);

// Capture times may be since 1970 (cameras) or from a video's beginning.
const EPOCH = 1e9;

export function clock(seconds, { tenths = false } = {}) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds > EPOCH) {
    return new Date(seconds * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  }
  const shown = tenths ? Math.round(seconds * 10) / 10 : Math.floor(seconds + 1e-6);
  const [hours, minutes, rest] = [Math.floor(shown / 3600), Math.floor(shown / 60) % 60, shown % 60];
  const text = tenths ? rest.toFixed(1).padStart(4, "0") : String(rest).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${text}` : `${minutes}:${text}`;
}

export const span = (start, end) => `${clock(start, { tenths: true })} to ${clock(end, { tenths: true })}`;

export function lasting(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

export function bytes(number) {
  const units = ["B", "KB", "MB", "GB"];
  let unit = 0;
  let shown = number;
  while (shown >= 1000 && unit < units.length - 1) [shown, unit] = [shown / 1024, unit + 1];
  return `${unit && shown < 100 ? shown.toFixed(1) : Math.round(shown)} ${units[unit]}`;
}

export const since = (when) => `${lasting(Math.max(0, Date.now() / 1000 - when))} ago`;
