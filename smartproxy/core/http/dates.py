"""HTTP dates (RFC 9110 §5.6.7)."""

from __future__ import annotations

_DAYS = ("Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(epoch_s: float) -> bytes:
    """An IMF-fixdate, such as `Sun, 06 Nov 1994 08:49:37 GMT`."""
    seconds = int(epoch_s)
    days, second_of_day = divmod(seconds, 86400)
    # Days to civil date, by 400-year eras that begin on 1 March.
    shifted = days + 719468
    era, day_of_era = divmod(shifted, 146097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted_month + 2) // 5 + 1
    month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
    year = year_of_era + era * 400 + (month <= 2)
    hour, minute, second = second_of_day // 3600, second_of_day // 60 % 60, second_of_day % 60
    return (
        f"{_DAYS[days % 7]}, {day:02} {_MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{second:02} GMT"
    ).encode()
