(() => {
  const video = document.querySelector("video"), bar = document.querySelector(".bar");
  const begin = Number(bar.dataset.begin), length = Number(bar.dataset.length);
  if (!video) return;
  const seek = (seconds) => {
    if (video.hidden) return false;
    video.currentTime = seconds;
    video.play().catch(() => {});
    return true;
  };
  const now = bar.querySelector(".now");
  video.addEventListener("timeupdate", () => {
    const place = (video.currentTime - begin) / length;
    now.hidden = place < 0 || place > 1;
    now.style.left = 100 * place + "%";
  });
  const failed = () => {
    video.hidden = now.hidden = true;
    document.querySelector(".unplayed").hidden = false;
  };
  video.addEventListener("error", failed);
  video.querySelector("source").addEventListener("error", failed);
  for (const mark of document.querySelectorAll("[data-start]")) {
    mark.addEventListener("click", () => seek(Number(mark.dataset.start)));
  }
  bar.addEventListener("click", (event) => {
    if (event.target.closest("[data-start]")) return;
    const box = bar.getBoundingClientRect();
    seek(begin + (length * (event.clientX - box.left)) / box.width);
  });
  document.documentElement.classList.add("plays");
})();
