// A worker that only ticks: a page's own timers slow down to one a second when its tab is hidden, a worker's do not.

let timer = null;
onmessage = ({ data: milliseconds }) => {
  clearInterval(timer);
  timer = milliseconds ? setInterval(() => postMessage(null), milliseconds) : null;
};
